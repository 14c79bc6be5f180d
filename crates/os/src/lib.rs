//! The only place that talks to the operating system: maps, huge memory, affinity, cgroups, locks.
