//! Everything from outside: a guest's kernel that speaks to a confined server, about a real directory. As root.

mod files;
mod hostile;
