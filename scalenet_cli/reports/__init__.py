"""What commands report: schemas, labels of metrics, tables and plots."""
