//! What a node does for the others.

use alloy_rlp::{RlpDecodableWrapper, RlpEncodableWrapper};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One thing a node does for the others (MKT-01, CHN-11).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Votes on blocks.
    Validator,
    /// Follows the chain and serves it.
    Full,
    /// Carries traffic between nodes that cannot reach each other.
    Relay,
    /// Runs jobs.
    Provider,
    /// Sells jobs to users over HTTP.
    Gateway,
    /// Settles receipts.
    Aggregator,
}

/// Why a text is not a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a role is one of validator, full, relay, provider, gateway, aggregator; got {actual:?}")]
pub struct RoleError {
    /// The text, cut to 80 characters.
    pub actual: String,
}

impl Role {
    /// Every role, in the order of their bits.
    pub const ALL: [Self; 6] =
        [Self::Validator, Self::Full, Self::Relay, Self::Provider, Self::Gateway, Self::Aggregator];

    /// The role's bit in a [`RoleSet`]; never reused.
    #[must_use]
    pub const fn bit(self) -> u16 {
        match self {
            Self::Validator => 1,
            Self::Full => 2,
            Self::Relay => 4,
            Self::Provider => 8,
            Self::Gateway => 16,
            Self::Aggregator => 32,
        }
    }

    /// The lowercase word, as in commands and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Validator => "validator",
            Self::Full => "full",
            Self::Relay => "relay",
            Self::Provider => "provider",
            Self::Gateway => "gateway",
            Self::Aggregator => "aggregator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Role {
    type Err = RoleError;
    fn from_str(text: &str) -> Result<Self, RoleError> {
        Self::ALL
            .into_iter()
            .find(|role| role.word() == text)
            .ok_or_else(|| RoleError { actual: text.chars().take(80).collect() })
    }
}

/// The roles of one node, as bits; bits that we do not know are kept, so that a newer node's record still verifies.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize, RlpEncodableWrapper, RlpDecodableWrapper,
)]
#[serde(transparent)]
pub struct RoleSet(pub u16);

impl RoleSet {
    /// A set of these roles.
    #[must_use]
    pub fn of(roles: &[Role]) -> Self {
        roles.iter().fold(Self::default(), |set, role| set.with(*role))
    }

    /// The set and one role more.
    #[must_use]
    pub const fn with(self, role: Role) -> Self {
        Self(self.0 | role.bit())
    }

    /// True where the node has this role.
    #[must_use]
    pub const fn contains(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// The roles we know, in the order of their bits.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.contains(*role))
    }
}

impl fmt::Display for RoleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().map(Role::word).collect();
        f.write_str(&words.join("+"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_roles_reads_as_words() {
        let set = RoleSet::of(&[Role::Provider, Role::Relay]);
        assert_eq!(set.to_string(), "relay+provider");
        assert!(set.contains(Role::Provider));
        assert!(!set.contains(Role::Gateway));
    }

    #[test]
    fn a_word_that_is_no_role_is_refused_with_the_list() {
        let error = "miner".parse::<Role>().unwrap_err();
        assert!(error.to_string().contains("aggregator"));
    }
}
