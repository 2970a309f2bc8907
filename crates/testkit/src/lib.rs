//! Dev-only: the lab, fake peers, fault injection, a guest's view of a virtqueue.
