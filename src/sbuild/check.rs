//! stub
#![allow(missing_docs)]
pub struct Options {
    pub threads: usize,
    pub memory: u64,
}
pub struct Report {
    pub loads_0_85: bool,
    pub loads_0_89: bool,
    pub intact: bool,
    pub findings: Vec<String>,
}
pub fn check(_: &std::fs::File, _: Option<&[u8]>, _: &Options) -> Result<Report, std::io::Error> {
    Ok(Report { loads_0_85: true, loads_0_89: true, intact: true, findings: vec![] })
}
