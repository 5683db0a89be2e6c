"""From drawn images to a clinic: objects that its systems accept, a queue that loses nothing, a ledger."""
