//! The keys of revocation: which lists of revoked certificates there are, and what is made of them. There is no
//! silent default: whoever names a list, or lets servers bring them, also says what they are for.

use std::path::PathBuf;

use super::problem::{Report, Written};
use super::section::crl_files;
use super::table::Table;
use super::{RevocationPolicy, RevocationRules};

const POLICIES: [(&str, RevocationPolicy); 3] = [
    ("off", RevocationPolicy::Off),
    ("known", RevocationPolicy::Known),
    ("required", RevocationPolicy::Required),
];

/// The two keys of one role, as written.
pub(super) struct WrittenRevocation {
    here: Written<()>,
    crls_key: &'static str,
    policy_key: &'static str,
    crls: Vec<Written<PathBuf>>,
    policy: WrittenPolicy,
}

enum WrittenPolicy {
    Absent,
    /// No word of ours, and reported.
    Wrong,
    Written(Written<RevocationPolicy>),
}

/// Reads them from the table of a listener or of the servers.
pub(super) fn read(
    table: &Table<'_>,
    crls_key: &'static str,
    policy_key: &'static str,
) -> WrittenRevocation {
    let crls = crl_files(table, crls_key);
    let field = table.optional(policy_key, "\"known\"");
    let policy = field.map_or(WrittenPolicy::Absent, |field| {
        let words = "write one of \"off\", \"known\", \"required\"";
        let policy = field.parse(|text| {
            let known = POLICIES.iter().find(|(word, _)| *word == text);
            known
                .map(|(_, policy)| *policy)
                .ok_or_else(|| format!("`{policy_key}` can't be \"{text}\": {words}"))
        });
        policy.map_or(WrittenPolicy::Wrong, WrittenPolicy::Written)
    });
    WrittenRevocation { here: table.here(), crls_key, policy_key, crls, policy }
}

impl WrittenRevocation {
    /// What is meant, once it is known whether servers bring lists. `first_by_server`: whether these lists can be
    /// brought before one is there.
    pub(super) fn check(
        &self,
        report: &Report<'_>,
        bring: bool,
        first_by_server: bool,
    ) -> RevocationRules {
        let Self { crls_key, policy_key, .. } = self;
        let crls = self.crls.iter().map(|file| file.value.clone()).collect::<Vec<_>>();
        let policy = match &self.policy {
            WrittenPolicy::Written(policy) => policy,
            WrittenPolicy::Absent if bring || !crls.is_empty() => {
                let first = self.crls.first().map_or(self.here.span, |file| file.span);
                let message = format!(
                    "missing key `{policy_key}`: write \"known\" (who is on a list is refused), \
                     \"required\" (so is everyone while no list is current) or \"off\""
                );
                report.error(first, message);
                return RevocationRules::default();
            }
            WrittenPolicy::Absent | WrittenPolicy::Wrong => return RevocationRules::default(),
        };
        let problem = match policy.value {
            RevocationPolicy::Off if crls.is_empty() => None,
            RevocationPolicy::Off => Some(format!("`{crls_key}` has no effect with \"off\"")),
            _ if !crls.is_empty() => None,
            _ if !bring => Some(format!(
                "no list will ever be there: name files in `{crls_key}`, or have servers bring \
                 lists (`bring_crls = true` in `[servers]`)"
            )),
            RevocationPolicy::Required if !first_by_server => Some(format!(
                "no server could come to bring the first list: name its file in `{crls_key}`"
            )),
            _ => None,
        };
        if let Some(message) = problem {
            report.error(policy.span, message);
        }
        RevocationRules { policy: policy.value, crls }
    }

    pub(super) fn is_off(&self) -> bool {
        matches!(&self.policy, WrittenPolicy::Written(policy) if policy.value == RevocationPolicy::Off)
    }
}
