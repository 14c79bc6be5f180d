//! Models in several files: `name-00001-of-00003.gguf`, with `split.no`, `split.count` in each.

use std::path::{Path, PathBuf};

use tamp_base::meta::Meta;

use crate::error::{Error, Result};

/// Which part of how many a file says it is; `None`: a whole model.
pub(crate) fn part(meta: &Meta) -> Result<Option<(usize, usize)>> {
    let Some(count) = meta.count_opt("split.count")?.filter(|&n| n > 1) else { return Ok(None) };
    let no = meta.count("split.no")?;
    if count > 99_999 || no >= count {
        return Err(Error::bad("split.no", format!("{no} of {count}"), "a part number below split.count"));
    }
    Ok(Some((no, count)))
}

/// The paths of all parts, in order, given any one of them.
pub(crate) fn paths(path: &Path, count: usize) -> Result<Vec<PathBuf>> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let wrong = || {
        Error::bad(
            "the file name",
            name,
            format!("one like model-00001-of-{count:05}.gguf, because the file is one of {count} parts"),
        )
    };
    let stem = name.strip_suffix(&format!("-of-{count:05}.gguf")).ok_or_else(wrong)?;
    let (stem, number) = stem.split_at_checked(stem.len().saturating_sub(6)).ok_or_else(wrong)?;
    let numbered =
        number.strip_prefix('-').is_some_and(|n| n.len() == 5 && n.bytes().all(|b| b.is_ascii_digit()));
    if !numbered {
        return Err(wrong());
    }
    let mut all = Vec::new();
    for i in 1..=count {
        let p = path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf"));
        if !p.is_file() {
            return Err(Error::missing(
                format!("part {i} of {count}, {},", p.display()),
                "put all parts into one folder",
            ));
        }
        all.push(p);
    }
    Ok(all)
}

/// The keys that describe one part and not the model.
pub(crate) fn strip(meta: &mut Meta) {
    for k in ["split.no", "split.count", "split.tensors.count"] {
        meta.0.remove(k);
    }
}
