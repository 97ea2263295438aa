"""What runs leave behind: records, lineage, champion, garbage collection."""
