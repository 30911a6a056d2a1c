"""The parts of `report.html`, one file a section. Each gives HTML, or nothing where there is nothing to show."""
