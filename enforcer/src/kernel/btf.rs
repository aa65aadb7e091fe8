//! Reads from the kernel's BTF where the fields of its structures lie.
//!
//! Input: the bytes of `/sys/kernel/btf/vmlinux` and, where a structure belongs to a module, those of the module. Output: the
//! offset of a field in bytes. Format: the kernel's `Documentation/bpf/btf.rst`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::error::{KernelError, at};

/// Where the kernel shows its types.
const DIRECTORY: &str = "/sys/kernel/btf";
/// First half word of every BTF.
const MAGIC: u16 = 0xeb9f;
/// `BTF_KIND_STRUCT`.
const STRUCT: u32 = 4;
/// `BTF_KIND_UNION`.
const UNION: u32 = 5;
/// Structures without a name in one another.
const DEPTH: u32 = 8;
/// Bytes of a member of a struct or a union, and of the head of each type.
const TWELVE: usize = 12;

/// The types of the kernel and of one of its modules.
#[derive(Debug)]
pub(super) struct KernelTypes {
    kernel: Vec<u8>,
    /// What the module adds; `None`: it is built in.
    module: Option<Vec<u8>>,
}

/// A structure's size and the offsets of its named fields, in bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Structure {
    pub(super) size: u32,
    fields: Vec<(String, u32)>,
}

impl Structure {
    /// Offset of a field.
    pub(super) fn offset(&self, field: &str) -> Option<u32> {
        self.fields.iter().find(|(name, _)| name == field).map(|(_, offset)| *offset)
    }
}

impl KernelTypes {
    /// Reads the types of the running kernel, and those of a module if it is one here.
    pub(super) fn read(module: &str) -> Result<Self, KernelError> {
        let directory = Path::new(DIRECTORY);
        let (kernel, module) = (directory.join("vmlinux"), directory.join(module));
        let kernel = fs::read(&kernel).map_err(at(&kernel, "read"))?;
        let module = match fs::read(&module) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(at(&module, "read")(error)),
        };
        Ok(Self { kernel, module })
    }

    /// The structures with these names; `None`: there is none, or the types cannot be read.
    pub(super) fn structures<const N: usize>(&self, names: [&str; N]) -> [Option<Structure>; N] {
        let Some(kernel) = Parsed::of(&self.kernel) else {
            return [const { None }; N];
        };
        let module = self.module.as_deref().and_then(Parsed::of);
        // The strings and the numbers of a module's types go on where those of the kernel end.
        names.map(|name| kernel.structure(name, None).or_else(|| module.as_ref()?.structure(name, Some(&kernel))))
    }
}

/// One BTF, taken apart.
struct Parsed<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type starts, from the one with number 1 on.
    places: Vec<usize>,
}

impl<'a> Parsed<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(*bytes.first_chunk()?) != MAGIC {
            return None;
        }
        let [head, types_at, types, strings_at, strings] = [4, 8, 12, 16, 20].map(|at| word(bytes, at));
        let head = head? as usize;
        let part = |at: Option<u32>, length: Option<u32>| {
            let start = head.checked_add(at? as usize)?;
            bytes.get(start..start.checked_add(length? as usize)?)
        };
        let (types, strings) = (part(types_at, types)?, part(strings_at, strings)?);
        let mut places = Vec::new();
        let mut at = 0;
        while at < types.len() {
            places.push(at);
            let info = word(types, at + 4)?;
            at += TWELVE + body_length(info >> 24 & 31, (info & 0xffff) as usize)?;
        }
        Some(Self { types, strings, places })
    }

    /// `base`: the kernel's types, if these are a module's.
    fn structure(&self, name: &str, base: Option<&Self>) -> Option<Structure> {
        let is_it = |at: &&usize| {
            self.head(**at).is_some_and(|[name_at, info, _]| {
                info >> 24 & 31 == STRUCT && self.string(name_at, base) == Some(name.as_bytes())
            })
        };
        let at = *self.places.iter().find(is_it)?;
        let [_, _, size] = self.head(at)?;
        let mut fields = Vec::new();
        self.fields(at, base, (0, 0), &mut fields)?;
        Some(Structure { size, fields })
    }

    /// The named fields of a structure or a union, and of those without a name in it, which lies at `offset` and is `depth` deep
    /// in others.
    fn fields(
        &self,
        at: usize,
        base: Option<&Self>,
        (offset, depth): (u32, u32),
        to: &mut Vec<(String, u32)>,
    ) -> Option<()> {
        let [_, info, _] = self.head(at)?;
        for place in 0..(info & 0xffff) as usize {
            let [name_at, kind, bits] = self.head(at + TWELVE + place * TWELVE)?;
            // Of a bit field the upper byte is its width.
            let bits = if info >> 31 == 0 { bits } else { bits & 0x00ff_ffff };
            let (name, offset) = (self.string(name_at, base)?, offset + bits / 8);
            if !name.is_empty() {
                to.push((String::from_utf8_lossy(name).into_owned(), offset));
            } else if let Some((inner, types)) = self.anonymous(kind, base)
                && depth < DEPTH
            {
                types.fields(inner, base.filter(|base| !std::ptr::eq(*base, types)), (offset, depth + 1), to)?;
            }
        }
        Some(())
    }

    /// Where the structure or union with a number starts, and in which types.
    fn anonymous<'b>(&'b self, number: u32, base: Option<&'b Self>) -> Option<(usize, &'b Self)> {
        let number = (number as usize).checked_sub(1)?;
        let (types, place) = match base {
            Some(base) if number < base.places.len() => (base, number),
            Some(base) => (self, number - base.places.len()),
            None => (self, number),
        };
        let at = *types.places.get(place)?;
        let [_, info, _] = types.head(at)?;
        matches!(info >> 24 & 31, STRUCT | UNION).then_some((at, types))
    }

    fn head(&self, at: usize) -> Option<[u32; 3]> {
        Some([word(self.types, at)?, word(self.types, at + 4)?, word(self.types, at + 8)?])
    }

    fn string(&self, at: u32, base: Option<&Self>) -> Option<&[u8]> {
        let at = at as usize;
        let before = base.map_or(0, |base| base.strings.len());
        let rest = match at.checked_sub(before) {
            Some(at) => self.strings.get(at..)?,
            None => base?.strings.get(at..)?,
        };
        rest.split(|byte| *byte == 0).next()
    }
}

/// Bytes behind the head of a type; `None`: no such kind.
fn body_length(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => TWELVE,
        // Structs, unions, sections, enums of 64 bits.
        STRUCT | UNION | 15 | 19 => count * TWELVE,
        // Enums, prototypes.
        6 | 13 => count * 8,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A BTF with a pointer before a structure `name` of 16 bytes, whose only field `field` lies at byte 8.
    fn btf(strings: &[u8], name_at: u32, field_at: u32) -> Vec<u8> {
        let types: Vec<u8> = [0, 2 << 24, 1, name_at, STRUCT << 24 | 1, 16, field_at, 1, 64]
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        let (types_length, strings_length) = (types.len() as u32, strings.len() as u32);
        let head = [24, 0, types_length, types_length, strings_length].into_iter().flat_map(u32::to_ne_bytes);
        MAGIC.to_ne_bytes().into_iter().chain([1, 0]).chain(head).chain(types).chain(strings.iter().copied()).collect()
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        let types = KernelTypes { kernel: btf(b"\0outer\0inner\0", 1, 7), module: None };
        let [outer, inner] = types.structures(["outer", "inner"]);
        let outer = outer.unwrap();
        assert_eq!((outer.size, outer.offset("inner"), outer.offset("none")), (16, Some(8), None));
        assert_eq!(inner, None);
    }

    #[test]
    fn the_strings_of_a_module_follow_those_of_the_kernel() {
        let kernel = btf(b"\0outer\0inner\0", 1, 7);
        let types = KernelTypes { kernel, module: Some(btf(b"more\0", 13, 7)) };
        let [more] = types.structures(["more"]);
        assert_eq!(more.unwrap().offset("inner"), Some(8));
    }

    #[test]
    fn bytes_that_are_no_types_have_no_structure() {
        let whole = btf(b"\0outer\0inner\0", 1, 7);
        for length in 0..whole.len() - 13 {
            let types = KernelTypes { kernel: whole[..length].to_vec(), module: None };
            assert_eq!(types.structures(["outer"]), [None], "{length} bytes");
        }
        let mut strange = whole;
        strange[24 + 7] = 31;
        assert_eq!(KernelTypes { kernel: strange, module: None }.structures(["outer"]), [None], "an unknown kind");
    }

    #[test]
    fn the_running_kernel_says_where_its_fields_lie() {
        let types = KernelTypes::read("nf_conntrack").unwrap();
        let [buffer] = types.structures(["sk_buff"]);
        let buffer = buffer.unwrap();
        // The second lies in structures without a name.
        for field in ["head", "network_header"] {
            assert!(buffer.offset(field).is_some_and(|at| 0 < at && at < buffer.size), "{field}");
        }
    }
}
