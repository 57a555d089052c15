"""Figures of a report's page, apart from the charts of training and INT8."""
