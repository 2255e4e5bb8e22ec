"""What the tests share: tiny models and rows, naive references, processes that may be killed."""
