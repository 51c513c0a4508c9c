"""The report of a deployment: what it computes, what it costs and what it does to the images, as one HTML page."""
