"""A finished run put to use: new scans, patients who do not exist, lesions painted into scans."""
