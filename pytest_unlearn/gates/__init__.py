"""Gates: the statistics and rules that turn counts into pass, fail or not shown."""
