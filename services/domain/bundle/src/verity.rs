//! The hash tree of a `verity` bundle, built and checked: dm-verity version 1 without superblock, SHA-256, 4096-byte blocks, salt in front.
//!
//! On disk the tree follows the data, highest level first. A hash block holds 128 digests, zero-filled; the root is the digest of the one
//! block of the highest level. What is checked is the memory that is then used: a block is hashed after it was read, never before.

use pitstop_types::Digest;
use sha2::{Digest as _, Sha256};

/// Length of data and hash blocks in bytes.
pub const BLOCK: usize = 4096;
/// Digests in one hash block.
pub const FANOUT: u64 = 128;
/// Verified hash blocks kept per level: squashfs readers jump between metadata at the end and data, so one would not do.
const CACHED_PER_LEVEL: usize = 8;

/// What the signed manifest says about the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerityParams {
    pub root: Digest,
    pub salt: [u8; 32],
    /// Bytes of the tree.
    pub tree_size: u64,
}

/// Why a tree cannot be right, or a block is not the one that was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerityError {
    #[error("a hash tree of {tree} bytes does not leave two blocks of data in a payload of {payload} bytes")]
    NoData { tree: u64, payload: u64 },
    #[error("{data} bytes of data need a hash tree of {needed} bytes, the manifest says {said}")]
    TreeSize { data: u64, needed: u64, said: u64 },
    #[error("block {0} is beyond the data")]
    Beyond(u64),
    #[error("data block {0} is not the one that was signed")]
    DataBlock(u64),
    #[error("block {index} of level {level} of the hash tree is not the one that was signed")]
    HashBlock { level: usize, index: u64 },
    #[error("{0} bytes are not a whole number of {BLOCK}-byte blocks, or fewer than two")]
    Unaligned(u64),
}

/// A tree's shape over data of known size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verity {
    params: VerityParams,
    data_blocks: u64,
    levels: Vec<Level>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level {
    /// Number of the level's first block, counted from the start of the payload.
    first: u64,
    blocks: u64,
}

impl Verity {
    /// The tree that `params` describe at the end of a payload of `payload_len` bytes. Refuses what does not fill the payload exactly.
    pub fn new(params: VerityParams, payload_len: u64) -> Result<Self, VerityError> {
        let no_data = VerityError::NoData { tree: params.tree_size, payload: payload_len };
        let data = payload_len.checked_sub(params.tree_size).filter(|&d| d > BLOCK as u64).ok_or(no_data)?;
        if !data.is_multiple_of(BLOCK as u64) {
            return Err(VerityError::Unaligned(data));
        }
        let data_blocks = data / BLOCK as u64;
        let levels = levels(data_blocks);
        let needed = levels.iter().map(|l| l.blocks).sum::<u64>() * BLOCK as u64;
        if needed != params.tree_size {
            return Err(VerityError::TreeSize { data, needed, said: params.tree_size });
        }
        Ok(Self { params, data_blocks, levels })
    }

    /// Bytes of data, before the tree.
    pub fn data_len(&self) -> u64 {
        self.data_blocks * BLOCK as u64
    }

    /// Number of data blocks.
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// What the manifest said.
    pub fn params(&self) -> &VerityParams {
        &self.params
    }
}

// Level 0 holds the digests of the data. The blocks follow the data, highest level first.
fn levels(data_blocks: u64) -> Vec<Level> {
    let mut sizes = Vec::new();
    let mut items = data_blocks;
    while items > 1 {
        items = items.div_ceil(FANOUT);
        sizes.push(items);
    }
    let mut first = data_blocks;
    let mut levels: Vec<Level> = sizes
        .iter()
        .rev()
        .map(|&blocks| {
            let level = Level { first, blocks };
            first += blocks;
            level
        })
        .collect();
    levels.reverse();
    levels
}

fn block_digest(salt: &[u8; 32], block: &[u8]) -> [u8; 32] {
    Sha256::new_with_prefix(salt).chain_update(block).finalize().into()
}

/// Where hash blocks are read from.
pub trait TreeSource {
    /// Why reading failed.
    type Error;
    /// Fills `into` with the block that begins at byte `offset` of the payload.
    fn hash_block(&mut self, offset: u64, into: &mut [u8; BLOCK]) -> Result<(), Self::Error>;
}

/// Why a block was not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError<E> {
    #[error("reading the hash tree")]
    Source(E),
    #[error(transparent)]
    Verity(#[from] VerityError),
}

/// Checks data blocks against the tree, with a small cache of hash blocks that were checked already.
pub struct Checker {
    verity: Verity,
    /// Per level: number of the hash block, and its content. Oldest first.
    cache: Vec<Vec<(u64, Box<[u8; BLOCK]>)>>,
}

impl Checker {
    /// A checker that trusts `verity`'s root and nothing else.
    pub fn new(verity: Verity) -> Self {
        let cache = verity.levels.iter().map(|_| Vec::new()).collect();
        Self { verity, cache }
    }

    /// The tree checked against.
    pub fn verity(&self) -> &Verity {
        &self.verity
    }

    /// Checks `block`, read as data block `index`; reads from `source` the hash blocks above it that are not known yet.
    pub fn check<S: TreeSource>(
        &mut self,
        index: u64,
        block: &[u8; BLOCK],
        source: &mut S,
    ) -> Result<(), CheckError<S::Error>> {
        if index >= self.verity.data_blocks {
            return Err(VerityError::Beyond(index).into());
        }
        let expected = self.expected(0, index, source)?;
        if block_digest(&self.verity.params.salt, block) != expected {
            return Err(VerityError::DataBlock(index).into());
        }
        Ok(())
    }

    /// Digest of item `index` as the tree's `level` holds it; above the highest level that is the root.
    fn expected<S: TreeSource>(
        &mut self,
        level: usize,
        index: u64,
        source: &mut S,
    ) -> Result<[u8; 32], CheckError<S::Error>> {
        let Some(&shape) = self.verity.levels.get(level) else {
            return Ok(*self.verity.params.root.as_bytes());
        };
        let (number, position) = (index / FANOUT, (index % FANOUT) as usize);
        let wrong = VerityError::HashBlock { level, index: number };
        if let Some(found) = self.cache.get(level).and_then(|c| c.iter().find(|(n, _)| *n == number)) {
            return digest_at(&found.1, position).ok_or(wrong.into());
        }
        let mut block = Box::new([0; BLOCK]);
        source.hash_block((shape.first + number) * BLOCK as u64, &mut block).map_err(CheckError::Source)?;
        let above = self.expected(level + 1, number, source)?;
        if block_digest(&self.verity.params.salt, block.as_slice()) != above {
            return Err(wrong.into());
        }
        let digest = digest_at(&block, position).ok_or(wrong)?;
        if let Some(cache) = self.cache.get_mut(level) {
            if cache.len() >= CACHED_PER_LEVEL {
                cache.remove(0);
            }
            cache.push((number, block));
        }
        Ok(digest)
    }
}

fn digest_at(block: &[u8; BLOCK], position: usize) -> Option<[u8; 32]> {
    block.chunks_exact(32).nth(position)?.try_into().ok()
}

/// Builds a tree while data blocks pass by, in order.
pub struct TreeBuilder {
    salt: [u8; 32],
    leaves: Vec<[u8; 32]>,
}

impl TreeBuilder {
    /// `salt`: 32 bytes, random for each bundle.
    pub fn new(salt: [u8; 32]) -> Self {
        Self { salt, leaves: Vec::new() }
    }

    /// Takes the next data block.
    pub fn push(&mut self, block: &[u8; BLOCK]) {
        self.leaves.push(block_digest(&self.salt, block));
    }

    /// The tree's bytes, as they follow the data, and what belongs into the manifest. At least two blocks must have passed.
    pub fn finish(self) -> Result<(Vec<u8>, VerityParams), VerityError> {
        if self.leaves.len() < 2 {
            return Err(VerityError::Unaligned((self.leaves.len() * BLOCK) as u64));
        }
        let mut levels: Vec<Vec<u8>> = Vec::new();
        let mut digests = self.leaves;
        while digests.len() > 1 {
            let mut bytes = digests.concat();
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            digests = bytes.chunks_exact(BLOCK).map(|b| block_digest(&self.salt, b)).collect();
            levels.push(bytes);
        }
        levels.reverse();
        let tree = levels.concat();
        let root = digests.first().copied().unwrap_or_default();
        let params = VerityParams { root: Digest::from_bytes(root), salt: self.salt, tree_size: tree.len() as u64 };
        Ok((tree, params))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl TreeSource for &[u8] {
        type Error = std::ops::Range<usize>;
        fn hash_block(&mut self, offset: u64, into: &mut [u8; BLOCK]) -> Result<(), Self::Error> {
            let range = offset as usize..offset as usize + BLOCK;
            into.copy_from_slice(self.get(range.clone()).ok_or(range)?);
            Ok(())
        }
    }

    fn payload(blocks: usize) -> (Vec<u8>, VerityParams) {
        let mut bytes: Vec<u8> = (0..blocks).flat_map(|i| [i as u8 ^ (i >> 8) as u8; BLOCK]).collect();
        let mut builder = TreeBuilder::new([9; 32]);
        bytes.chunks_exact(BLOCK).for_each(|b| builder.push(b.try_into().unwrap()));
        let (tree, params) = builder.finish().unwrap();
        bytes.extend(tree);
        (bytes, params)
    }

    fn check_all(bytes: &[u8], params: VerityParams) -> Result<(), CheckError<std::ops::Range<usize>>> {
        let verity = Verity::new(params, bytes.len() as u64)?;
        let mut checker = Checker::new(verity);
        let mut source = bytes;
        for index in 0..checker.verity().data_blocks() {
            let at = index as usize * BLOCK;
            checker.check(index, bytes[at..at + BLOCK].try_into().unwrap(), &mut source)?;
        }
        Ok(())
    }

    #[test]
    fn three_hundred_blocks_have_two_levels_and_four_hash_blocks() {
        let (bytes, params) = payload(300);
        assert_eq!(params.tree_size, 16_384);
        let verity = Verity::new(params, bytes.len() as u64).unwrap();
        // Level 0 has three blocks behind the one of level 1.
        assert_eq!(verity.levels, [Level { first: 301, blocks: 3 }, Level { first: 300, blocks: 1 }]);
        assert_eq!(check_all(&bytes, params), Ok(()));
    }

    #[test]
    fn the_root_agrees_with_a_second_computation() {
        // Computed by a Python program from dm-verity's description: 130 blocks, block i filled with the byte i, salt 32 times 09.
        let (_, params) = payload(130);
        assert_eq!(params.root.to_string(), "93eee72aba770482f22ce317abad98199eda0e95084c385f7ecd4b205a28b38f");
    }

    #[test]
    fn a_wrong_tree_size_is_refused_before_a_block_is_read() {
        let (bytes, good) = payload(300);
        let new = |tree_size, len| Verity::new(VerityParams { tree_size, ..good }, len);
        assert!(matches!(new(12_288, bytes.len() as u64), Err(VerityError::TreeSize { needed: 16_384, .. })));
        assert!(matches!(new(u64::MAX, bytes.len() as u64), Err(VerityError::NoData { .. })));
        assert!(matches!(new(bytes.len() as u64 - 4096, bytes.len() as u64), Err(VerityError::NoData { .. })));
        assert!(matches!(new(16_385, bytes.len() as u64), Err(VerityError::Unaligned(_))));
    }

    #[test]
    fn a_block_out_of_place_is_refused() {
        let (bytes, params) = payload(300);
        let mut checker = Checker::new(Verity::new(params, bytes.len() as u64).unwrap());
        let block: &[u8; BLOCK] = bytes[..BLOCK].try_into().unwrap();
        let mut source = bytes.as_slice();
        assert_eq!(checker.check(0, block, &mut source), Ok(()));
        assert_eq!(checker.check(1, block, &mut source), Err(VerityError::DataBlock(1).into()));
        assert_eq!(checker.check(300, block, &mut source), Err(VerityError::Beyond(300).into()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_flipped_bit_is_found(blocks in prop_oneof![2usize..5, 126usize..131, Just(400usize)], at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let (mut bytes, params) = payload(blocks);
            prop_assert_eq!(check_all(&bytes, params), Ok(()));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(check_all(&bytes, params).is_err(), "byte {}", at);
        }

        #[test]
        fn any_claimed_size_is_taken_or_refused(tree_size in any::<u64>(), len in any::<u64>()) {
            let params = VerityParams { root: Digest::of(b""), salt: [0; 32], tree_size };
            if let Ok(v) = Verity::new(params, len) { prop_assert_eq!(v.data_len() + tree_size, len); }
        }
    }
}
