//! Resolved policy -> the tables that the datapath reads (design: section 5).
//!
//! Input: a [`ResolvedPolicy`](crate::resolve::ResolvedPolicy). Output: an [`Image`], whole or not at all. Pure; equal
//! inputs give equal images.
#![forbid(unsafe_code)]

mod image;

pub use image::Image;
