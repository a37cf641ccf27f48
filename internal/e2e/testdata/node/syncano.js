// Drives a batch endpoint with a version of Syncano's client, which retries by
// itself when it is told to.
const Syncano = require(process.env.PACKAGE);

const connection = Syncano({
  baseUrl: process.env.BATCHD, apiKey: 'key-1', userKey: 'user-1', defaults: {instanceName: 'i', className: 'class'},
});
const {DataObject} = connection;

const send = () => {
  const manager = connection.BatchManager({instanceName: 'i'});
  manager.removeObjects();
  manager.addObjects(
    {object: DataObject({string: 'made'}), action: 'create'},
    {object: DataObject({id: 38, string: 'new'}), action: 'update'},
    {object: DataObject({id: 38}), action: 'delete'},
    {object: DataObject({id: 404}), action: 'delete'},
  );
  return manager.batch();
};

(async () => {
  for (let i = 0; i < 2; i++) console.log(JSON.stringify(await send()));
})();
