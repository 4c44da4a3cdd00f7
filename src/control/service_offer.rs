use std::collections::HashSet;

use crate::wire::ServerHello;

/// A service as gateway and server speak of it. Both mean the same one only where they agree on all of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceOffer {
    /// Its name in both configurations.
    pub name: String,
    /// Whether the agents' own TLS goes through the gateway unread.
    pub passthrough: bool,
}

impl ServiceOffer {
    /// A service whose TLS ends at the gateway.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), passthrough: false }
    }

    /// What a server says that it can serve.
    pub(super) fn all_of(hello: &ServerHello) -> HashSet<Self> {
        let passthrough: HashSet<_> =
            hello.passthrough.iter().map(|&place| place as usize).collect();
        let services = hello.services.iter().enumerate();
        let offer = |(place, name): (usize, &String)| Self {
            name: name.clone(),
            passthrough: passthrough.contains(&place),
        };
        services.map(offer).collect()
    }

    /// The services of a hello, and the places of those that go through.
    pub(super) fn as_said(offers: &[Self]) -> (Vec<String>, Vec<u32>) {
        let names = offers.iter().map(|offer| offer.name.clone()).collect();
        let places =
            (0..).zip(offers).filter(|(_, offer)| offer.passthrough).map(|(place, _)| place);
        (names, places.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let through = ServiceOffer { name: "vault".to_owned(), passthrough: true };
        let offers = [ServiceOffer::new("web"), through, ServiceOffer::new("ssh")];
        let (services, passthrough) = ServiceOffer::as_said(&offers);
        assert_eq!(passthrough, [1]);
        let hello = ServerHello { services, passthrough, ..ServerHello::default() };
        assert_eq!(ServiceOffer::all_of(&hello), offers.into_iter().collect());
    }

    #[test]
    fn a_place_that_is_none_means_nothing() {
        let (services, passthrough) = (vec!["web".to_owned()], vec![7, u32::MAX]);
        let hello = ServerHello { services, passthrough, ..ServerHello::default() };
        assert_eq!(ServiceOffer::all_of(&hello), [ServiceOffer::new("web")].into_iter().collect());
    }
}
