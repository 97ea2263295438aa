output "store" {
  description = "The store, for HEMAFLOW_STORE."
  value       = "s3://${aws_s3_bucket.store.id}${var.prefix == "" ? "" : "/${var.prefix}"}"
}

output "policy_arn" {
  description = "The policy, for roles and users that exist already."
  value       = aws_iam_policy.store.arn
}

output "role_arn" {
  description = "The role, for the annotation of the service account in infra/k8s/service-accounts.yaml."
  value       = aws_iam_role.store.arn
}

output "instance_profile_name" {
  description = "The instance profile of virtual machines; null where pods take the role."
  value       = one(aws_iam_instance_profile.store[*].name)
}
