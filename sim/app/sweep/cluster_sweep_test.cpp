#include "sim/app/sweep/cluster_sweep.hpp"

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "sim/app/process_pool.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

const std::vector<std::string> kHostileNames{
    "plain",
    "a b",
    "it's",
    "\"q\"",
    "$(touch broken)",
    "`touch broken`",
    "x; touch broken; #",
    "x' ; touch broken ; '",
    "x\n#SBATCH --uid=root\ntouch broken",
    "$HOME ${HOME} $0 $@",
    "\\",
    "-n",
    "*",
};

}  // namespace

TEST_CASE("the script of a task calls the program with the very texts, whatever is in them") {
  for (const std::string& name : kHostileNames) {
    CAPTURE(name);
    const TestFolder folder;
    const fs::path program =
        folder.write(name + "/nearkv",
                     "#!/bin/sh\nprintf '<%s>' \"$NEARKV_HOME\" \"$@\"\n");  // what it was given
    fs::permissions(program, fs::perms::owner_all);
    const fs::path script = folder.write(
        "task.sh", text_of({.home = name,
                            .program = program.string(),
                            .folder = "/results/" + name,
                            .cores = 4,
                            .options = {"--allow-outside=" + name, "--allow-outside"}}));
    const fs::path before = fs::current_path();
    fs::current_path(folder.path());
    setenv("SLURM_ARRAY_TASK_ID", "7; touch broken", 1);
    const ChildResult child = run_program({"/bin/sh", script.string()});
    unsetenv("SLURM_ARRAY_TASK_ID");
    fs::current_path(before);
    CHECK(child.diagnostics == "<" + name + "><sweep-task></results/" + name +
                                   "><7; touch broken><--jobs><4><--allow-outside=" + name +
                                   "><--allow-outside>");
    CHECK_FALSE(fs::exists(folder.path() / "broken"));
  }
}

TEST_CASE("the script of a task begins with commands, so that no text is an option of sbatch") {
  const std::string script = text_of({.home = "/x\n#SBATCH --uid=root",
                                      .program = "/nearkv",
                                      .folder = "/y\n#SBATCH --uid=root",
                                      .options = {"--allow-outside=/z\n#SBATCH --uid=root"}});
  // sbatch reads "#SBATCH" only up to the first line that is neither empty nor a comment.
  CHECK(script.find("#SBATCH") > script.find("\nexport "));
  CHECK(script.starts_with("#!/bin/sh\n# Written by nearkv sweep --backend slurm: one task"));
}

}  // namespace nearkv
