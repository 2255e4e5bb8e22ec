"""Lightning, ranks, devices and files: what a run stands on, whatever it trains."""
