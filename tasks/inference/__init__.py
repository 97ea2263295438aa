"""Using a trained model: views, temperature, predictions."""

CODE_TABLES = ("views._KINDS", "views.PRESETS")  # not there: a submission carries the text of views.py
