"""What a completion gives away: matching, attribution, rates."""
