"""What Exchangis does for whoever asks, over HTTP, a terminal or Python: checked, then stored."""
