"""Kills runs at random moments, resumes them and compares their endings with runs left alone."""
