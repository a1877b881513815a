//! The drivers for the guest: a few of Debian's modules, and those that they need.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// One module, ready to be loaded.
#[derive(Debug)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The uncompressed file.
    pub content: Vec<u8>,
    /// The names of all modules that must be loaded before, the first to load last.
    pub needs: Vec<String>,
}

/// All modules of a kernel.
#[derive(Debug)]
pub struct Tree {
    files: BTreeMap<String, PathBuf>,
}

impl Tree {
    /// Reads the names below `dir`, which is `lib/modules/VERSION`.
    ///
    /// # Errors
    ///
    /// If a folder cannot be read.
    pub fn read(dir: &Path) -> Result<Tree> {
        let mut tree = Tree { files: BTreeMap::new() };
        let mut todo = vec![dir.to_path_buf()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("{}", dir.display()))? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_dir() && !path.is_symlink() {
                    todo.push(path);
                } else if let Some((name, "" | ".xz")) = name.split_once(".ko") {
                    tree.files.insert(canonical(name), path);
                }
            }
        }
        Ok(tree)
    }

    /// The module `names` and all that they need. What is not there is left out: it is built into
    /// the kernel, or the guest's test will say that it misses it.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or decompressed.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut modules = BTreeMap::new();
        for name in names {
            self.add(&canonical(name), &mut modules)?;
        }
        Ok(modules.into_values().collect())
    }

    fn add(&self, name: &str, modules: &mut BTreeMap<String, Module>) -> Result<()> {
        let Some(path) = self.files.get(name) else { return Ok(()) };
        if modules.contains_key(name) {
            return Ok(());
        }
        let content = load(path)?;
        let mut needs = Vec::new();
        for direct in depends(&content) {
            self.add(&direct, modules)?;
            let Some(module) = modules.get(&direct) else { continue };
            // A module that two others need is loaded before both.
            needs.retain(|n| !module.needs.contains(n) && *n != direct);
            needs.push(direct);
            needs.extend(module.needs.iter().cloned());
        }
        modules.insert(name.to_owned(), Module { name: name.to_owned(), content, needs });
        Ok(())
    }
}

/// Module names are the same with dashes and with underscores.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn load(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    if path.extension().is_none_or(|e| e != "xz") {
        return Ok(bytes);
    }
    let mut content = Vec::new();
    lzma_rs::xz_decompress(&mut bytes.as_slice(), &mut content)
        .map_err(|error| anyhow::anyhow!("cannot decompress {}: {error:?}", path.display()))?;
    Ok(content)
}

/// The `depends=a,b` of the module's information section, whose strings end in NUL.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else { return Vec::new() };
    let value = module.iter().skip(at + KEY.len()).take_while(|b| **b != 0).copied().collect();
    let value = String::from_utf8(value).unwrap_or_default();
    value.split(',').filter(|name| !name.is_empty()).map(canonical).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closure_in_load_order() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("kernel");
        fs::create_dir(&sub).unwrap();
        for (name, needs) in [("a-1", "b,c"), ("b", "d"), ("c", "b,d"), ("d", ""), ("e", "")] {
            let content = format!("ELF\0depends={needs}\0x");
            fs::write(sub.join(format!("{name}.ko")), content).unwrap();
        }
        let modules = Tree::read(dir.path()).unwrap().closure(&["a_1", "absent"]).unwrap();
        let names: Vec<_> = modules.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["a_1", "b", "c", "d"]);
        assert_eq!(modules[0].needs, ["c", "b", "d"]);
    }
}
