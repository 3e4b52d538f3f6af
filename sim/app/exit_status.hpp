// What the program's exit status says.
#pragma once

namespace nearkv {

inline constexpr int kExitOk = 0;
inline constexpr int kExitUserError = 2;  // the input is wrong; nothing was written
// Points failed, or were stopped at a limit of this machine's time or memory; the sweep's table or
// their records say which.
inline constexpr int kExitPointsFailed = 3;
inline constexpr int kExitTryAgain = 75;  // EX_TEMPFAIL: not all is done; the same again goes on
inline constexpr int kExitInternalError = 70;  // EX_SOFTWARE: our bug
inline constexpr int kExitSignalBase = 128;    // 128 + the signal that ended the program

}  // namespace nearkv
