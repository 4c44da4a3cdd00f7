//! As much of DER (X.690) as a list of revoked certificates needs, without a copy: what a server brings is read
//! before its signature is known to be good, and must not make us hold more than its own bytes.

use x509_parser::prelude::{ASN1Time, FromDer};

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const CONTEXT_0: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Values that stand one after another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Der<'a>(&'a [u8]);

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'a> {
    pub(super) tag: u8,
    /// With its tag and length.
    pub(super) whole: &'a [u8],
    pub(super) content: &'a [u8],
}

impl<'a> Der<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next value; `None` where there is none, or it is not well-formed.
    pub(super) fn next(&mut self) -> Option<Value<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        // Tags of several bytes have no place in a list.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let len = bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
                // The shortest form is the only one.
                if bytes[0] == 0 || len < 0x80 {
                    return None;
                }
                (len, rest)
            }
            _ => return None,
        };
        let (content, behind) = rest.split_at_checked(len)?;
        let whole = &self.0[..self.0.len() - behind.len()];
        self.0 = behind;
        Some(Value { tag, whole, content })
    }

    /// The next value, which must have that tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<Value<'a>> {
        self.next().filter(|value| value.tag == tag)
    }

    /// The next value where it has that tag.
    pub(super) fn optional(&mut self, tag: u8) -> Option<Value<'a>> {
        if self.0.first() == Some(&tag) { self.next() } else { None }
    }

    pub(super) fn is_at_time(&self) -> bool {
        matches!(self.0.first(), Some(&(UTC_TIME | GENERALIZED_TIME)))
    }

    /// The next value, a time, in seconds since 1970.
    pub(super) fn time(&mut self) -> Option<i64> {
        let value = self.is_at_time().then(|| self.next())??;
        ASN1Time::from_der(value.whole).ok().map(|(_, time)| time.timestamp())
    }
}
