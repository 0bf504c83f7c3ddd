package protocol

// MaxMessage is the largest gRPC message in bytes that comet, logic and job send or take, as
// goim has it.
const MaxMessage = 16 << 20
