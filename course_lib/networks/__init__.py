"""Networks: plain modules (x, t, condition) -> a tensor. None of them knows a schedule."""
