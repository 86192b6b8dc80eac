"""The pages of the site that are made from the code, and what joins them to those of docs/."""
