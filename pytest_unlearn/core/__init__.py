"""What every room uses: errors, files, the store, secrets, costs."""
