# What hemaflow does with the bucket, and no more. tests/infra/test_deployment_files.py compares it with the requests
# that infra/s3_store.py and infra/s3_upload.py make.

locals {
  object_arn = "${aws_s3_bucket.store.arn}/${var.prefix == "" ? "*" : "${var.prefix}/*"}"
}

data "aws_iam_policy_document" "store" {
  # HeadObject is GetObject; the multipart requests but two are PutObject; conditional writes need no right of their
  # own beyond these, except that If-Match reads: GetObject.
  statement {
    sid = "Objects"
    actions = [
      "s3:GetObject",
      "s3:PutObject",
      "s3:DeleteObject",
      "s3:AbortMultipartUpload",
      "s3:ListMultipartUploadParts",
    ]
    resources = [local.object_arn]
  }

  # Without the right to list, Amazon answers 403 where an object is absent: hemaflow could not tell that from a
  # refusal, and would not start. Hence IfExists: HeadBucket, and the question whether an absent object may be said to
  # be absent, come without a prefix.
  statement {
    sid       = "Names"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.store.arn]

    dynamic "condition" {
      for_each = var.prefix == "" ? [] : [var.prefix]

      content {
        test     = "StringLikeIfExists"
        variable = "s3:prefix"
        values   = ["", condition.value, "${condition.value}/*"]
      }
    }
  }

  # Amazon knows no condition on the prefix here.
  statement {
    sid       = "UnfinishedUploads"
    actions   = ["s3:ListBucketMultipartUploads"]
    resources = [aws_s3_bucket.store.arn]
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == "" ? [] : [var.kms_key_arn]

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

data "aws_iam_policy_document" "virtual_machines" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_policy" "store" {
  name        = var.role_name
  description = "Read, write and collect the garbage of a store of hemaflow."
  policy      = data.aws_iam_policy_document.store.json
  tags        = var.tags
}

resource "aws_iam_role" "store" {
  name               = var.role_name
  description        = "Runs of hemaflow."
  assume_role_policy = coalesce(var.assume_role_policy, data.aws_iam_policy_document.virtual_machines.json)
  tags               = var.tags
}

resource "aws_iam_role_policy_attachment" "store" {
  role       = aws_iam_role.store.name
  policy_arn = aws_iam_policy.store.arn
}

# What a virtual machine is given the role by; pods do not need it.
resource "aws_iam_instance_profile" "store" {
  count = var.assume_role_policy == null ? 1 : 0
  name  = var.role_name
  role  = aws_iam_role.store.name
  tags  = var.tags
}
