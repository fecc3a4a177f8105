"""A text-to-image model as a service: a web page (Gradio) and a JSON endpoint, on this machine.

    python -m course_lib.web

`limits` says what may be asked, `painter` draws, `service` queues, `endpoints` and `gate` speak
HTTP. They need no web framework; only `page` and `server` need the extra `web`.
"""
