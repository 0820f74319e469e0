"""The page that searches a center: plain ES modules, one style sheet, and their routes."""
