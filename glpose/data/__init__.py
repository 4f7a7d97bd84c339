"""Videos, annotations and boxes as they come, and stored features on their way into training."""
