"""Sections of `report.html`, one file each; a section is empty where there is nothing to show."""
