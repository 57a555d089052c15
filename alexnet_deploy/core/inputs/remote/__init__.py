"""Images behind a URL, through fsspec: object stores, web servers, zip archives."""
