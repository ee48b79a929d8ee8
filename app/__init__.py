"""The app: speak into a web page on this computer and read what was heard."""
