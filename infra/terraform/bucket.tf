# The bucket of a store. hemaflow never makes one: what it is given must not depend on who ran it first.

resource "aws_s3_bucket" "store" {
  bucket = var.bucket
  tags   = var.tags

  # The store is the only place where models and their records are.
  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_public_access_block" "store" {
  bucket                  = aws_s3_bucket.store.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

# Whoever wrote an object, it is the bucket owner's; no ACLs.
resource "aws_s3_bucket_ownership_controls" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

# Entity tags stay the MD5 of a part only with SSE-S3. With a KMS key they are not, so an upload that was cut is sent
# again from its beginning: slower, never wrong.
resource "aws_s3_bucket_server_side_encryption_configuration" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    bucket_key_enabled = var.kms_key_arn != ""

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == "" ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn == "" ? null : var.kms_key_arn
    }
  }
}

# On, so that a mistaken removal can be undone. hemaflow neither reads nor removes versions: it sees the current
# objects alone, and its conditional writes (If-None-Match, If-Match) compare with those alone.
resource "aws_s3_bucket_versioning" "store" {
  bucket = aws_s3_bucket.store.id

  versioning_configuration {
    status = "Enabled"
  }
}

# No rule expires current objects, nor moves them to a class that has to be thawed. A manifest names objects of any
# age, and one that is reused every week may be years old: only `hemaflow gc` knows what nothing needs any more.
resource "aws_s3_bucket_lifecycle_configuration" "store" {
  bucket     = aws_s3_bucket.store.id
  depends_on = [aws_s3_bucket_versioning.store]

  rule {
    id     = "drop-unfinished-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = var.num_unfinished_upload_days
    }
  }

  # What `gc` removed, and leases and marks that were overwritten.
  rule {
    id     = "drop-noncurrent-versions"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.num_noncurrent_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }
}

# The store's names and metadata never go over the wire in the clear.
data "aws_iam_policy_document" "tls_only" {
  statement {
    sid       = "RefuseWithoutTls"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.store.arn, "${aws_s3_bucket.store.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "store" {
  bucket     = aws_s3_bucket.store.id
  policy     = data.aws_iam_policy_document.tls_only.json
  depends_on = [aws_s3_bucket_public_access_block.store]
}
