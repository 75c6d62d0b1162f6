"""The parts of ``diagnose``: what is opened, measured, drawn and written."""
