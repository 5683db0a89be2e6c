"""Networks: shapes only, no job words. The U-Net, slow averages, and the precision that this machine is fast in."""
