"""Few-shot object detection with a memory of pooled regions."""
