"""What all HTML pages share: one style sheet, light and dark, for any width, without network or scripts."""
