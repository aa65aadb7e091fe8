//! Loads a program of a type that aya reads from an object but cannot load.
//!
//! Input: the bpf object, the maps, and the values of constants. Output: the program, loaded over those maps.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya::EbpfError;
use aya_obj::btf::BtfFeatures;
use aya_obj::{EbpfSectionKind, Object};
use enforcer_common::schema::flag;

use crate::kernel::error::KernelError;
use crate::kernel::hooks::refused::refused;
use crate::kernel::sys::{self, Map, MapAttributes, NewProgram, ProgramType, kind};

/// Loads one program of an object. `maps` has a map for each name of the object, `constants` the values of its globals.
pub(super) fn load(
    object: &[u8],
    name: &'static str,
    kind: ProgramType,
    maps: &BTreeMap<&str, BorrowedFd<'_>>,
    constants: &[(&str, u32)],
) -> Result<OwnedFd, KernelError> {
    let mut object = Object::parse(object).map_err(boxed)?;
    let values: Vec<(&str, [u8; 4])> = constants.iter().map(|(name, value)| (*name, value.to_ne_bytes())).collect();
    let values = values.iter().map(|(name, value)| (*name, (&value[..], true))).collect();
    object.patch_map_data(values).map_err(boxed)?;
    // Each kernel with tcx has all of these features of BTF. aya would find that out by a call for each.
    let features = BtfFeatures::new(true, true, true, true, true, true, true, true);
    let btf = object.fixup_and_sanitize_btf(&features).map_err(boxed)?;
    let btf = btf.ok_or(KernelError::MissingProgram { name })?.to_bytes();
    let btf = sys::btf_load(&btf).map_err(system("BPF_BTF_LOAD"))?;

    object.programs.retain(|found, _| found == name);
    let text = object.functions.keys().map(|(section, _)| *section).collect();
    let own = std::mem::take(&mut object.maps);
    let private: BTreeMap<&str, Map> = own
        .iter()
        .filter(|(name, _)| !maps.contains_key(name.as_str()))
        .filter_map(|(name, map)| Some((name.as_str(), private_map(name, map)?)))
        .map(|(name, map)| map.map(|map| (name, map)))
        .collect::<Result<_, _>>()?;
    // The other functions of the object have maps that this one has not; without a descriptor the kernel would refuse
    // an instruction that uses one.
    let fds = own.iter().map(|(name, map)| {
        let name = name.as_str();
        let fd = maps.get(name).copied().or_else(|| private.get(name).map(Map::fd));
        (name, fd.map_or(-1, |fd| fd.as_raw_fd()), map)
    });
    object.relocate_maps(fds, &text).map_err(boxed)?;
    object.relocate_calls(&text).map_err(boxed)?;

    let program = object.programs.get(name).ok_or(KernelError::MissingProgram { name })?;
    let function = object.functions.get(&program.function_key());
    let function = function.ok_or(KernelError::MissingProgram { name })?;
    let loaded = sys::program_load(&NewProgram {
        kind,
        name,
        instructions: &function.instructions,
        license: match kind {
            ProgramType::Syscall => &program.license,
            // It reads the kernel's own structures, which the kernel lets only such a program do (ADR 0007).
            ProgramType::Netfilter => c"GPL",
        },
        btf: btf.as_fd(),
        functions: &function.func_info,
    });
    loaded.map_err(|(source, log)| refused(name, source, &log))
}

/// A map that each program has for itself: the constants, and the place for what is under way. `None`: it is neither.
fn private_map(name: &str, map: &aya_obj::Map) -> Option<Result<Map, KernelError>> {
    if map.section_kind() == EbpfSectionKind::Rodata {
        return Some(constants_map(map.data()));
    }
    let attributes = MapAttributes {
        kind: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        entries: map.max_entries(),
        flags: map.map_flags(),
    };
    let is_place = attributes.kind == kind::PERCPU_ARRAY && attributes.entries == 1;
    is_place.then(|| Map::create(name, &attributes, None).map_err(system("BPF_MAP_CREATE")))
}

/// A map of constants, as the verifier knows them: one element that nobody can change.
fn constants_map(data: &[u8]) -> Result<Map, KernelError> {
    let attributes = MapAttributes {
        kind: kind::ARRAY,
        key_size: 4,
        value_size: data.len() as u32,
        entries: 1,
        flags: flag::RDONLY_PROG,
    };
    let map = Map::create("rodata", &attributes, None).map_err(system("BPF_MAP_CREATE"))?;
    map.update(&[0; 4], data).map_err(system("BPF_MAP_UPDATE_ELEM"))?;
    map.freeze().map_err(system("BPF_MAP_FREEZE"))?;
    Ok(map)
}

fn system(call: &'static str) -> impl Fn(std::io::Error) -> KernelError {
    move |source| KernelError::System { call, source }
}

fn boxed<E>(error: E) -> Box<EbpfError>
where
    EbpfError: From<E>,
{
    Box::new(error.into())
}
