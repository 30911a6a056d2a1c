"""HTML pages and SVG plots of reports."""
