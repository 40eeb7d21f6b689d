"""What all pages of HTML share: one style sheet, light and dark, for any width, without network or script."""
