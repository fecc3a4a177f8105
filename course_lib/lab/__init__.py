"""What experiments need: data, training, metrics, plots and widgets. Only this folder sees both schedules and networks."""
