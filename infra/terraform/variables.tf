variable "bucket" {
  description = "Name of the bucket to make for the store. It holds nothing but stores of hemaflow."
  type        = string

  # What infra/s3_store.py takes for a name.
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "Expected 3 to 63 small letters, digits, dots and hyphens."
  }
}

variable "prefix" {
  description = "What all names of the store begin with, without slashes at its ends: the store is s3://bucket/prefix. Empty for the whole bucket."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([A-Za-z0-9_.@=+-]+(/[A-Za-z0-9_.@=+-]+)*)?$", var.prefix))
    error_message = "Expected letters, digits and _.@=+- with single slashes between, none at the ends."
  }
}

variable "role_name" {
  description = "Name of the role and of its policy."
  type        = string
  default     = "hemaflow"
}

variable "assume_role_policy" {
  description = <<-EOT
    Who may take the role, as JSON. For pods on EKS (IRSA), the cluster's OIDC provider, with its `sub` condition on
    system:serviceaccount:hemaflow:hemaflow-job; for virtual machines, ec2.amazonaws.com, which is the default.
  EOT
  type        = string
  default     = null
}

variable "num_unfinished_upload_days" {
  description = "How long parts of an upload that was cut wait for somebody to go on with it."
  type        = number
  default     = 7

  # Young ones may belong to a run that is at work; a run that was cut goes on with them.
  validation {
    condition     = var.num_unfinished_upload_days >= 2
    error_message = "Expected at least 2 days: an upload that goes on must not lose its parts."
  }
}

variable "num_noncurrent_days" {
  description = "How long an object that was removed or overwritten can still be brought back."
  type        = number
  default     = 14

  validation {
    condition     = var.num_noncurrent_days >= 1
    error_message = "Expected at least 1 day."
  }
}

variable "kms_key_arn" {
  description = "The KMS key that encrypts the objects; empty for Amazon's own (SSE-S3)."
  type        = string
  default     = ""
}

variable "tags" {
  description = "Tags of everything made here."
  type        = map(string)
  default     = {}
}
