use slab::Slab;

use crate::uring::Token;

/// A table whose places are reused, and whose tokens are not: each tenant has a generation.
pub(super) struct Slots<T> {
    slab: Slab<Slot<T>>,
    next_generation: u32,
}

struct Slot<T> {
    generation: u32,
    value: T,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slab: Slab::new(), next_generation: 0 }
    }
}

impl<T> Slots<T> {
    /// Takes a place.
    pub(super) fn insert(&mut self, value: T) -> Token {
        let generation = self.next_generation;
        self.next_generation = self.next_generation.wrapping_add(1);
        let index = self.slab.insert(Slot { generation, value });
        let index = u32::try_from(index).expect("max_connections is far below 2^32");
        Token { index, generation }
    }

    /// `None` where the tenant has left.
    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slab.get_mut(token.index as usize)?;
        (slot.generation == token.generation).then_some(&mut slot.value)
    }

    /// Two different tenants at once.
    pub(super) fn pair_mut(&mut self, first: Token, second: Token) -> Option<(&mut T, &mut T)> {
        if first.index == second.index {
            return None;
        }
        let (one, two) = self.slab.get2_mut(first.index as usize, second.index as usize)?;
        let both = one.generation == first.generation && two.generation == second.generation;
        both.then_some((&mut one.value, &mut two.value))
    }

    /// Gives the place free.
    pub(super) fn remove(&mut self, token: Token) -> Option<T> {
        self.get_mut(token)?;
        Some(self.slab.remove(token.index as usize).value)
    }

    /// Number of tenants.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// All tenants of this moment.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let token = |(index, slot): (usize, &Slot<T>)| Token {
            index: u32::try_from(index).expect("checked at insertion"),
            generation: slot.generation,
        };
        self.slab.iter().map(token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_a_former_tenant_opens_nothing() {
        let mut slots = Slots::default();
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_eq!(first.index, second.index);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut "second"));
    }

    #[test]
    fn a_pair_needs_two_living_tenants() {
        let mut slots = Slots::default();
        let (one, two) = (slots.insert(1), slots.insert(2));
        assert_eq!(slots.pair_mut(one, two), Some((&mut 1, &mut 2)));
        assert_eq!(slots.pair_mut(one, one), None);
        slots.remove(two);
        assert_eq!(slots.pair_mut(one, two), None);
    }
}
