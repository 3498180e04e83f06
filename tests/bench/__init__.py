"""What the service is measured with: ``python -m tests.bench`` (see ``make bench``)."""
