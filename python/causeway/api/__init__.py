"""HTTP: translate, authorise, call control. No decisions."""
