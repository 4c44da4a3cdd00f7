use std::path::Path;

use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use super::credentials::{date, load_certificates};
use crate::limits::EXPIRY_WARNING;

const SECONDS_PER_DAY: i64 = 86_400;

/// When the certificate of a file ends; where it holds several, the first of them to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// As the configuration names it.
    pub file: String,
    /// Last moment of its validity, in seconds since 1970.
    pub end: i64,
    start: i64,
}

impl Expiry {
    /// `None` where the file can't be read, which whoever loads it says.
    pub fn of_file(path: &Path) -> Option<Self> {
        let certificates = load_certificates(path).ok()?;
        let expiries = certificates.iter().filter_map(|certificate| {
            let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
            Some(Self::of(path, &parsed))
        });
        expiries.min_by_key(|expiry| expiry.end)
    }

    pub(crate) fn of(path: &Path, certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self {
            file: path.display().to_string(),
            end: validity.not_after.timestamp(),
            start: validity.not_before.timestamp(),
        }
    }

    /// What to tell the operator at that time, in seconds since 1970.
    pub fn warning(&self, now: i64) -> Option<String> {
        let left = self.end - now;
        let third = (self.end - self.start) / 3;
        let early = i64::try_from(EXPIRY_WARNING.as_secs()).unwrap_or(i64::MAX);
        if left >= third.min(early) {
            return None;
        }
        let file = &self.file;
        let date = ASN1Time::from_timestamp(self.end).map_or_else(|_| "a date".to_owned(), date);
        Some(if left < 0 {
            format!("{file}: expired on {date}, and every peer refuses it; renew it")
        } else {
            format!("{file}: expires on {date}, in {} days; renew it", left / SECONDS_PER_DAY)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, Folder, params};

    const DAY: i64 = SECONDS_PER_DAY;

    fn expiry(days: i64) -> Expiry {
        Expiry { file: "gw.crt".to_owned(), start: 0, end: days * DAY }
    }

    #[test]
    fn an_operator_is_warned_thirty_days_before_the_end_and_after_it() {
        let year = expiry(365);
        assert_eq!(year.warning(335 * DAY), None);
        let warning = year.warning(335 * DAY + 1).expect("29 days are left");
        assert_eq!(warning, "gw.crt: expires on 1971-01-01 00:00 UTC, in 29 days; renew it");
        let warning = year.warning(365 * DAY + 1).expect("it is over");
        assert!(warning.starts_with("gw.crt: expired on 1971-01-01 00:00 UTC"), "{warning}");
    }

    #[test]
    fn a_certificate_of_three_days_is_warned_about_on_its_last() {
        assert_eq!(expiry(3).warning(2 * DAY), None);
        assert!(expiry(3).warning(2 * DAY + 1).is_some());
    }

    #[test]
    fn the_first_certificate_of_a_file_to_end_counts() {
        let folder = Folder::new();
        let ca = Authority::new(&folder, "ca");
        let issue = |name: &str, year| {
            let mut params = params(name);
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            std::fs::read_to_string(ca.issue_with(name, &params).certificate).expect("written")
        };
        let both = folder.write("both.crt", &(issue("a", 2050) + &issue("b", 2040)));
        let expiry = Expiry::of_file(&both).expect("certificates");
        assert_eq!(expiry.end, 2_208_988_800);
        assert_eq!(Expiry::of_file(&folder.path().join("absent.crt")), None);
    }
}
